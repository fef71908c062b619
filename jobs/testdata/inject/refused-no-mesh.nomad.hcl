job "j" {
  group "g" {
    network { mode = "bridge" }
    task "app" {
      driver = "docker"
      config { image = "app" }
    }
  }
}
