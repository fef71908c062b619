# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

telemetry {
  otlp_endpoint = "http://collector.example.com:4318"
  otlp_ca_file  = "ca.pem"
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
