# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service = {
  Name              = "web"
  ID                = "web-1"
  Port              = 8080
  EnableTagOverride = true
  Check = {
    CheckID                        = "alive"
    TCP                            = "127.0.0.1:8080"
    Interval                       = "10s"
    DeregisterCriticalServiceAfter = "10m"
    tlsskipverify                  = true
  }
  Checks = [
    {
      id         = "script"
      scriptargs = ["/usr/local/bin/check", "-v"]
      interval   = "1m"
    },
  ]
  Connect = {
    SidecarService = {
      Proxy = {
        LocalServiceAddress = "127.0.0.2"
        Upstreams = [
          {
            DestinationName  = "api"
            LocalBindPort    = 9191
            LocalBindAddress = "127.0.0.3"
          },
        ]
      }
    }
  }
}
