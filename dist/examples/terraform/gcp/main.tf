# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# Machines on Google Cloud that log in to Vault by their identity token. Build the
# image with packer/examples/googlecompute.

terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 5.0"
    }
    vault = {
      source  = "hashicorp/vault"
      version = ">= 4.0"
    }
  }
}

variable "project" {
  type        = string
  description = "ID of the project."
}

variable "zone" {
  type    = string
  default = "europe-west3-a"
}

variable "network" {
  type        = string
  description = "Self link of the subnetwork."
}

variable "machines" {
  type    = number
  default = 2
}

variable "trust_domain" {
  type = string
}

module "mesh" {
  source       = "../mesh"
  service      = "web"
  callers      = ["edge"]
  upstreams    = ["api"]
  trust_domain = var.trust_domain
}

# It needs no permission at all: it is only there to be named.
resource "google_service_account" "web" {
  project    = var.project
  account_id = "mesh-web"
}

resource "vault_gcp_auth_backend_role" "web" {
  backend                = "gcp"
  role                   = "web"
  type                   = "gce"
  bound_projects         = [var.project]
  bound_service_accounts = [google_service_account.web.email]
  token_policies         = [module.mesh.vault_policy]
  token_ttl              = 3600
  token_max_ttl          = 86400
}

resource "google_compute_instance" "web" {
  count = var.machines

  project      = var.project
  zone         = var.zone
  name         = "web-${count.index}"
  machine_type = "e2-small"

  boot_disk {
    initialize_params {
      image = "projects/${var.project}/global/images/family/web"
    }
  }

  network_interface {
    subnetwork = var.network
  }

  shielded_instance_config {
    enable_secure_boot = true
  }

  service_account {
    email  = google_service_account.web.email
    scopes = ["userinfo-email"]
  }
}
