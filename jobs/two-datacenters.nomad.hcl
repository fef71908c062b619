# An upstream in another datacenter, called directly: no mesh gateway is needed
# where the hosts of both datacenters reach each other.
#
#   nomad job run two-datacenters.nomad.hcl
#   consul intention create -allow reports archive      # in the primary datacenter
#
# Consul's servers are WAN-joined and share one CA. With ACLs, the sidecar's token
# must be known in both: the auth method needs TokenLocality = "global", and the
# other datacenter token replication. With gateways between the
# datacenters, add mesh_gateway { mode = "local" } to the upstream.

variable "datacenter" {
  type    = string
  default = "dc2"
}

job "two-datacenters" {
  group "reports" {
    network {
      mode = "bridge"
    }

    service {
      name = "reports"
      port = "8080"

      connect {
        sidecar_service {
          proxy {
            upstreams {
              destination_name = "archive"
              datacenter       = var.datacenter
              local_bind_port  = 9191
            }
          }
        }

        sidecar_task {
          driver = "raw_exec"

          config {
            command = "outrider"
            args    = ["sidecar"]
          }

          resources {
            cpu    = 50
            memory = 32
          }
        }
      }
    }

    task "app" {
      driver = "raw_exec"

      config {
        command = "sh"
        args    = ["-c", "while :; do curl -sS http://$NOMAD_UPSTREAM_ADDR_archive/; sleep 1; done"]
      }
    }
  }
}
