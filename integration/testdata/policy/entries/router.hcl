Kind = "service-router"
Name = "api"
