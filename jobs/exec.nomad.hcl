# The sidecars under the exec driver: in a chroot of their own, as nobody, within
# the memory and CPU that the job gives them.
#
#   nomad job run -var consul=http://$(hostname -i):8500 exec.nomad.hcl
#   consul intention create -allow shop cart
#
# A task of the exec driver may not leave the network of its group, where the
# host's loopback is not. So Consul's agent must listen where the group can reach
# it (client_addr), and CONSUL_HTTP_ADDR says where that is. The chroot must hold
# the binary: chroot_env = { "/usr/bin/outrider" = "/usr/bin/outrider" }.

variable "consul" {
  type        = string
  description = "The HTTP API of the Consul agent, at an address of the host."
}

job "exec" {
  group "cart" {
    network {
      mode = "bridge"
    }

    service {
      name = "cart"
      port = "9090"

      connect {
        sidecar_service {}

        sidecar_task {
          driver = "exec"

          config {
            command = "outrider"
            args    = ["sidecar"]
          }

          env {
            CONSUL_HTTP_ADDR = var.consul
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
        data        = "hello from cart\n"
        destination = "local/index.html"
      }
    }
  }

  group "shop" {
    network {
      mode = "bridge"
    }

    service {
      name = "shop"
      port = "8080"

      connect {
        sidecar_service {
          proxy {
            upstreams {
              destination_name = "cart"
              local_bind_port  = 9191
            }
          }
        }

        sidecar_task {
          driver = "exec"

          config {
            command = "outrider"
            args    = ["sidecar"]
          }

          env {
            CONSUL_HTTP_ADDR = var.consul
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
        args    = ["-c", "while :; do curl -sS http://$NOMAD_UPSTREAM_ADDR_cart/; sleep 1; done"]
      }
    }
  }
}
