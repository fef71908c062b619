# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

consul {
  address = "https://admin:hunter2@127.0.0.1:8501"
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
