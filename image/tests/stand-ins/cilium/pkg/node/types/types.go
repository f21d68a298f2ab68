// Package types stands in for the part of its namesake that is used here.
package types

import "os"

// GetName is the node's name.
func GetName() string { return os.Getenv("K8S_NODE_NAME") }
