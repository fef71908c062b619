# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

vault {
  address = "https://127.0.0.1:8200"

  auth "gcp" {
    role            = "web"
    service_account = "../../x"
    credentials     = "/key.json"
  }

  pki {
    role = "web"
  }
}
