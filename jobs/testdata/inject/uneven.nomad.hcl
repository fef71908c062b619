job "j" {
  group "g" {
    network { mode = "bridge" }
    service {
      name = "web"
      port = "8080"
      connect {
        sidecar_service {}
        sidecar_task {
          user="app"
          # kept
          kill_timeout = "20s" # long
          resources { cpu=60 }
          identity {
            name = "mine"
            aud = ["x"]
          }
          logs {
            max_files = 3
          }
          env {
            CONSUL_HTTP_ADDR = "10.0.0.1:8500"
          }
        }
      }
    }
    task "app" {
      driver = "docker"
      config { image = "app" }
    }
  }
}
