job "j" {
  group "g" {
    network { mode = "bridge" }
    dynamic "service" {
      for_each = ["a", "b"]
      content {
        name = service.value
        port = "80"
        connect {
          sidecar_service {}
        }
      }
    }
    task "app" {
      driver = "docker"
      config { image = "app" }
    }
  }
}
