# What the API is for, and for whom.
Kind = "service-intentions"
Name = "api"

Sources = [
  {
    Name = "web"
    Permissions = [
      {
        Action = "deny"
        HTTP {
          PathPrefix = "/admin"
          Header = [
            {
              Name    = "x-root"
              Present = true
              Invert  = true
            },
          ]
        }
      },
      {
        Action = "allow"
        HTTP {
          PathPrefix = "/admin"
          Methods    = ["GET", "put"]
        }
        JWT {
          Providers = [
            {
              Name = "okta"
              VerifyClaims = [
                {
                  Path  = ["perms", "role"]
                  Value = "admin"
                }
              ]
            }
          ]
        }
      },
      {
        Action = "allow"
        HTTP {
          PathRegex = "/item/[0-9]+"
        }
      },
      {
        Action = "allow"
        HTTP {
          PathExact = "/"
        }
      },
    ]
  },
  {
    Name   = "shop"
    Action = "allow"
  },
  {
    Name   = "*"
    Action = "deny"
  },
]
