module ringfence/cluster/registry

go 1.24
