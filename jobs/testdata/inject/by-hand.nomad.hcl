job "j" {
  group "g" {
    network { mode = "bridge" }
    service {
      name = "web"
      port = "8080"
      connect {
        sidecar_service {}
      }
    }
    service {
      name = "other"
      port = "8081"
      connect {
        sidecar_service {}
      }
    }
    service {
      name = "gw"
      port = "8443"
      connect {
        gateway {
          mesh {}
        }
      }
    }
    service {
      name = "nat"
      task = "app"
      port = "8082"
      connect {
        native = true
      }
    }
    task "side" {
      kind   = "connect-proxy:other"
      driver = "raw_exec"
      config { command = "outrider" }
    }
    task "app" {
      driver = "docker"
      config { image = "app" }
    }
  }
}
