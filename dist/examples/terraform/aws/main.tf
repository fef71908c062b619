# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# Machines on AWS that log in to Vault by the role of their instance profile.
# Build the image with packer/examples/amazon-ebs.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
    vault = {
      source  = "hashicorp/vault"
      version = ">= 4.0"
    }
  }
}

variable "image" {
  type        = string
  description = "ID of the AMI."
}

variable "subnets" {
  type        = list(string)
  description = "IDs of the subnets, one machine in each."
}

variable "security_groups" {
  type        = list(string)
  description = "IDs of the security groups. Peers come to the port of the sidecar, 21000; nobody to that of the application."
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

data "aws_iam_policy_document" "machine" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

# The role needs no permission at all: it is only there to be named.
resource "aws_iam_role" "web" {
  name               = "web"
  assume_role_policy = data.aws_iam_policy_document.machine.json
}

resource "aws_iam_instance_profile" "web" {
  name = "web"
  role = aws_iam_role.web.name
}

# iam_server_id_header_value of the auth method must be what the image says as
# header_value, so that a login for another Vault is no login for this one.
resource "vault_aws_auth_backend_role" "web" {
  backend                  = "aws"
  role                     = "web"
  auth_type                = "iam"
  bound_iam_principal_arns = [aws_iam_role.web.arn]
  token_policies           = [module.mesh.vault_policy]
  token_ttl                = 3600
  token_max_ttl            = 86400
}

resource "aws_instance" "web" {
  for_each = toset(var.subnets)

  ami                    = var.image
  instance_type          = "t3.small"
  subnet_id              = each.value
  vpc_security_group_ids = var.security_groups
  iam_instance_profile   = aws_iam_instance_profile.web.name

  # metadata.* in the configuration asks with a session token. A container on the
  # machine is one hop further, and gets no answer.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "enabled"
  }

  root_block_device {
    encrypted = true
  }

  tags = {
    Name = "web"
  }
}
