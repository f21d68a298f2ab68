module github.com/cilium/cilium

go 1.23.0

require (
	github.com/cilium/hive v0.0.0
	github.com/cilium/statedb v0.3.0
	k8s.io/apimachinery v0.31.0
)
