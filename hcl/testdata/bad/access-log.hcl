access_log {
  type        = "syslog"
  path        = "access.log"
  json_format = "[1]"
  text_format = "x"
  directories = ["logs"]
}
service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy {
        access_logs {
          type   = "file"
          format = "x"
        }
      }
    }
  }
}
service {
  name = "api"
  port = 8081
  connect {
    sidecar_service {
      proxy {
        access_logs {
          type = "stdout"
          path = "/var/log/api.log"
        }
      }
    }
  }
}
