# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# outrider.env of the machine may say where Consul is.
consul {
  address    = env("CONSUL_HTTP_ADDR", "127.0.0.1:8500")
  token_file = "/etc/outrider.d/consul.token"
}

service {
  name    = "web"
  id      = "web-${hostname}"
  port    = 8080
  address = "{{ GetPrivateIP }}"

  meta = {
    machine = hostname
  }

  check {
    http     = "http://127.0.0.1:8080/health"
    interval = "5s"
  }

  connect {
    sidecar_service {
      port = 21000
    }
  }
}
