# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

consul {
  token = env("OUTRIDER_TEST_ABSENT")
}
service {
  name = "web"
  port = 8080
  id = env("OUTRIDER_TEST_ABSENT")

  connect {
    sidecar_service {}
  }
}
