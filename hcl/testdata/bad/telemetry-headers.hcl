# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

telemetry {
  otlp_endpoint = "https://token@collector.example.com"
  otlp_headers  = { Authorization = "Bearer 12345" }
  otlp_insecure = true
  sample_ratio  = "half"
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
