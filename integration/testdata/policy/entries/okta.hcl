Kind   = "jwt-provider"
Name   = "okta"
Issuer = "https://okta.example"

Audiences = ["api"]

JSONWebKeySet = {
  Local = {
    JWKS = "eyJrZXlzIjpbXX0="
  }
}

Locations = [
  {
    Header = {
      Name        = "X-Token"
      ValuePrefix = "Bearer "
    }
  },
  {
    Cookie = {
      Name = "session"
    }
  },
]
