# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

consul {
  default_intention_policy = "denied"
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
