access_log {
  enabled     = true
  type        = "file"
  path        = "/var/log/outrider/access.log"
  text_format = "%START_TIME% %REQ(:METHOD)% %PATH(NQ)% %RESPONSE_CODE% 100%%\n"
  directories = ["/srv/logs", "/opt/app/logs"]
}
service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy {
        access_logs {
          enabled             = true
          DisableListenerLogs = true
          type                = "stderr"
          JSONFormat          = <<-EOT
            {"path": "%REQ(:PATH)%", "code": "%RESPONSE_CODE%"}
          EOT
        }
      }
    }
  }
}
