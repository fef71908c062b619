job "j" {
  group "bare" {
    service {
      name = "b"
      port = "80"
      connect {
        sidecar_service {}
      }
    }
    task "app" {
      driver = "exec"
      config { command = "x" }
    }
  }
  group "g" {
    network { mode = "host" }
    service {
      name = "web"
      port = "8080"
      connect {
        sidecar_service {
          proxy {
            upstreams {
              destination_name = "a"
              local_bind_port = 5000
            }
            upstreams {
              destination_name = "b"
              local_bind_port = 5000
            }
          }
        }
        sidecar_task {
          driver = "exec"
          user = "root"
          resources { cores = 1 }
          config {
            command = "/opt/outrider"
            args = ["sidecar"]
          }
        }
      }
    }
    task "app" {
      driver = "docker"
      config { image = "app" }
      service {
        name = "task-level"
        port = "81"
        connect {
          sidecar_service {}
        }
      }
    }
  }
}
