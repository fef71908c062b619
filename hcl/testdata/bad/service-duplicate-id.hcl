# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "web"
  port = 8080
  id = "one"

  connect {
    sidecar_service {}
  }
}
service {
  name = "api"
  port = 8081
  id = "ONE"

  connect {
    sidecar_service {}
  }
}
service {
  name = "one-sidecar-proxy"
  port = 8082

  connect {
    sidecar_service {}
  }
}
