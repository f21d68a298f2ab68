// A stand-in for Cilium's agent: it says which pods it would watch, and ends.
package main

import (
	"fmt"
	"os"

	"github.com/cilium/cilium/daemon/k8s"
	"github.com/cilium/cilium/pkg/k8s/client"
	"github.com/cilium/cilium/pkg/version"
)

func main() {
	fmt.Println("a stand-in for Cilium's agent", version.Version())
	if _, err := k8s.NewPodTableAndReflector(nil, nil, client.Clientset{}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
