# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

log {
  level  = "info"
  format = "json"
}

consul {
  address    = "https://127.0.0.1:8501"
  token_file = "/etc/outrider.d/consul.token"

  tls {
    ca_file   = "/etc/outrider.d/consul-ca.pem"
    cert_file = "/etc/outrider.d/consul-client.pem"
    key_file  = "/etc/outrider.d/consul-client-key.pem"
  }
}

admin {
  address = "unix:///run/outrider/admin.sock"
}

drain {
  propagation = "2s"
  timeout     = "30s"
}
