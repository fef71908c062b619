# A job with comments.
variable "image" { default = "x" }

job "web" {
  group "idle" {
    task "cron" {
      driver = "raw_exec"
      config { command = "/bin/true" }
    }
  }

  group "web" { # here
    network {
      mode = "bridge"
    }

    service {
      name = "web"
      port = "9090"

      connect {
        # The sidecar.
        sidecar_service {
          proxy {
            upstreams {
              destination_name = "api"
              local_bind_port  = 5000
            }
          }
        }
      }
    }

    service {
      name = "two"
      port = "9091"
      connect {
        sidecar_service {}
        sidecar_task {
          driver = "docker" # why
          config { image = "envoy" }
          env { A = "b" } # one line
          resources {
            memory = 64
          }
        }
      }
    }
    task "app" {
      driver = "raw_exec"
      config {
        command = "/bin/sleep"
        args    = ["600"]
      }
      template {
        destination = "local/x"
        data        = <<-EOT
          service { connect { sidecar_service {} } } # not a block
        EOT
      }
    }
  }
}
