Kind = "service-intentions"
Name = "*"
Sources = [
  { Name = "monitor", Action = "allow" },
  { Name = "web", Action = "deny" },
]
