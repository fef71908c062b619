service {
  name = "web"
  port = 8080
  check {
    http              = "http://127.0.0.1:8080/health"
    interval          = "5s"
    disable_redirects = true
    output_max_size   = 8192
  }
  check {
    os_service = "web"
    interval   = "5s"
  }
  connect {
    sidecar_service {}
  }
}
