variable "n" { type = number }
variable "dcs" { type = list(string) }
variable "greeting" {}
job "j" {
  datacenters = var.dcs
  priority = var.n
  meta { greeting = var.greeting }
  group "g" {
    network { mode = "bridge" }
    service {
      name = "web"
      port = "8080"
      connect {
        sidecar_service {}
      }
    }
    task "app" {
      driver = "docker"
      config { image = "app" }
    }
  }
}
