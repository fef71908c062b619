# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# What Vault and Consul have to know of a service: who may have a certificate for
# it, and who may call it. Machines are in ../aws and ../gcp.

terraform {
  required_version = ">= 1.5"
  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 4.0"
    }
    consul = {
      source  = "hashicorp/consul"
      version = ">= 2.20"
    }
  }
}

variable "service" {
  type        = string
  description = "Name of the service."

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", var.service))
    error_message = "The name must be of lower-case letters, digits and dashes."
  }
}

variable "callers" {
  type        = list(string)
  description = "Services that may call it. All others are denied."
  default     = []
}

variable "upstreams" {
  type        = list(string)
  description = "Services that it calls."
  default     = []
}

variable "trust_domain" {
  type        = string
  description = "Trust domain of Consul: consul connect ca roots, without spiffe://."
}

variable "datacenter" {
  type    = string
  default = "dc1"
}

variable "pki_mount" {
  type        = string
  description = "Mount of the PKI that signs for the mesh; its issuer chains to a root that Consul publishes."
  default     = "connect-intermediate"
}

# One URI and nothing else: whoever logs in as this service is this service.
resource "vault_pki_secret_backend_role" "service" {
  backend          = var.pki_mount
  name             = "mesh-${var.service}"
  allowed_uri_sans = ["spiffe://${var.trust_domain}/ns/default/dc/${var.datacenter}/svc/${var.service}"]

  allow_any_name              = false
  allow_bare_domains          = false
  allow_ip_sans               = false
  allow_localhost             = false
  allow_subdomains            = false
  allow_wildcard_certificates = false
  require_cn                  = false

  key_type       = "ec"
  key_bits       = 256
  key_usage      = ["DigitalSignature", "KeyEncipherment"]
  ext_key_usage  = ["ServerAuth", "ClientAuth"]
  client_flag    = true
  server_flag    = true
  no_store       = true
  generate_lease = false
  max_ttl        = "259200"
}

# Signs requests; it cannot have Vault make a key.
resource "vault_policy" "service" {
  name   = "mesh-${var.service}"
  policy = <<-EOT
    path "${var.pki_mount}/sign/mesh-${var.service}" {
      capabilities = ["update"]
    }
  EOT
}

# For the agent of Outrider on the machines of the service.
resource "consul_acl_policy" "service" {
  name  = "outrider-${var.service}"
  rules = <<-EOT
    service "${var.service}" {
      policy = "write"
    }
    service "${var.service}-sidecar-proxy" {
      policy = "write"
    }
    %{for upstream in var.upstreams~}
    service "${upstream}" {
      policy = "read"
    }
    service "${upstream}-sidecar-proxy" {
      policy = "read"
    }
    %{endfor~}
    node_prefix "" {
      policy = "read"
    }
  EOT
}

resource "consul_config_entry_service_intentions" "service" {
  name = var.service

  dynamic "sources" {
    for_each = toset(var.callers)
    content {
      name       = sources.value
      action     = "allow"
      precedence = 9
      type       = "consul"
    }
  }

  sources {
    name       = "*"
    action     = "deny"
    precedence = 8
    type       = "consul"
  }
}

output "vault_policy" {
  value = vault_policy.service.name
}

output "consul_policy" {
  value = consul_acl_policy.service.name
}
