module github.com/outrider-mesh/outrider/integration/servers/consul-cni

go 1.26.7

require github.com/hashicorp/consul/sdk v0.18.2
