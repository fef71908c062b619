kind = "service-intentions"
name = "db"
sources {
  name   = "api"
  action = "allow"
}
sources {
  name   = "web"
  peer   = "east"
  action = "allow"
}
