# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

consul {
  address = env("CONSUL_HTTP_ADDR", "127.0.0.1:8500")
}

service {
  name = "billing"
  port = 7000
  meta = {
    release = file("release.txt")
  }

  connect {
    sidecar_service {}
  }
}
