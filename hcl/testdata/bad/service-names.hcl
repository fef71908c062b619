# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "*"
  port = 8080

  connect {
    sidecar_service {}
  }
}
service {
  name = "team/web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
service {
  name = ".."
  port = 8080

  connect {
    sidecar_service {}
  }
}
service {
  name = "web shop"
  port = 8080

  connect {
    sidecar_service {}
  }
}
