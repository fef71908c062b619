job "j" {
  group "g" {
    network { mode = "bridge" }
    service {
      name = "web"
      port = "8080"
      connect {
        gateway {
          mesh {}
        }
      }
    }
    task "app" {
      driver = "docker"
      config { image = "app" }
    }
  }
}
