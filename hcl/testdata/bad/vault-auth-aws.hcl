# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

vault {
  address = "https://127.0.0.1:8200"

  auth "aws" {
    region       = "eu.example.com/"
    header_value = "a\nb"
    secret_key   = "c0ffee"
    type         = "ec2"
  }

  pki {
    role = "web"
  }
}
