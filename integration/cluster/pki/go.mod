module meshctl.dev/integration/cluster/pki

go 1.24.0
