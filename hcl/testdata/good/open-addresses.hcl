# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# What is not known on the machine that checks must not be reported as wrong.
consul {
  address    = "{{ GetPrivateIP }}:8500"
  datacenter = metadata.region
}

service {
  name    = "one"
  id      = "one-${hostname}"
  port    = 8080
  address = metadata.private_ip

  tagged_addresses {
    wan {
      address = "{{ GetPublicIP }}"
      port    = 443
    }
  }

  connect {
    sidecar_service {
      port = 21000

      proxy {
        config {
          bind_address = "{{ GetInterfaceIP \"eth0\" }}"
        }

        upstreams {
          destination_name   = "api"
          local_bind_address = "{{ GetInterfaceIP \"eth1\" }}"
          local_bind_port    = 21000
        }
      }
    }
  }
}

service {
  name = "one"
  id   = "two-${hostname}"
  port = 8081

  connect {
    sidecar_service {
      port = 21002
    }
  }
}
