# Two services in the mesh: web calls api on its own loopback, over mTLS.
#
#   nomad job run web-api.nomad.hcl
#   consul intention create -allow web api
#   nomad alloc logs -job -f -group web web-api
#
# Clients need: the raw_exec driver, the CNI plugins, consul and outrider on the
# PATH of the Nomad agent. Nomad's raw_exec tasks join the network of their
# group; as root, the sidecar reaches Consul on the loopback of the host.

job "web-api" {
  group "api" {
    network {
      mode = "bridge"
    }

    service {
      name = "api"
      port = "9090"

      connect {
        sidecar_service {}

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
        command = "python3"
        args    = ["-m", "http.server", "9090", "--bind", "127.0.0.1", "--directory", "local"]
      }

      template {
        data        = "hello from api\n"
        destination = "local/index.html"
      }
    }
  }

  group "web" {
    network {
      mode = "bridge"
    }

    service {
      name = "web"
      port = "8080"

      connect {
        sidecar_service {
          proxy {
            upstreams {
              destination_name = "api"
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
        args    = ["-c", "while :; do curl -sS http://$NOMAD_UPSTREAM_ADDR_api/; sleep 1; done"]
      }
    }
  }
}
