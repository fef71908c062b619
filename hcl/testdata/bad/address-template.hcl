# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

consul {
  address = "{{ GetPrivateIQ }}:8500"
}

service {
  name    = "web"
  port    = 8080
  address = "{{ range GetAllInterfaces }}x{{ end }}"

  tagged_addresses {
    wan {
      address = "{{ printf \"%1000000d\" 1 }}"
    }
  }

  connect {
    sidecar_service {
      address = "{{ $x := GetPrivateIP }}"

      proxy {
        config {
          bind_address = "{{ define \"x\" }}{{ end }}{{ template \"x\" }}"
        }

        upstreams {
          destination_name   = "api"
          local_bind_address = "{{ GetPrivateIP"
          local_bind_port    = 9000
        }
      }
    }
  }
}
