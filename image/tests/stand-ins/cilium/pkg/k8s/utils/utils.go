// Package utils stands in for the part of its namesake that is used here.
package utils

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cilium/cilium/pkg/k8s/client"
)

// ListerWatcher knows what it would list.
type ListerWatcher struct {
	Options metav1.ListOptions
}

// ListerWatcherFromTyped lists all.
func ListerWatcherFromTyped(client.Clientset) ListerWatcher { return ListerWatcher{} }

// ListerWatcherWithModifiers lists what is left.
func ListerWatcherWithModifiers(lw ListerWatcher, modify func(*metav1.ListOptions)) ListerWatcher {
	modify(&lw.Options)
	return lw
}
