# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name        = "cart"
  socket_path = "/run/cart/http.sock"

  connect {
    sidecar_service {
      port = 21001
    }
  }
}

service {
  name = "stock"
  port = 7002

  connect {
    sidecar_service {
      port = 21002
    }
  }
}
