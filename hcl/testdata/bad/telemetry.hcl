# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

telemetry {
  prometheus_address = "9102"
  otlp_endpoint      = "127.0.0.1:4317"
  otlp_protocol      = "http/json"
  sample_ratio       = 5
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
