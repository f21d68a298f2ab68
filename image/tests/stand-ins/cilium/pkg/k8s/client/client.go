// Package client stands in for the part of its namesake that is used here.
package client

// Clientset asks nobody.
type Clientset struct{}

// Slim is itself.
func (c Clientset) Slim() Clientset { return c }

// CoreV1 is itself.
func (c Clientset) CoreV1() Clientset { return c }

// Pods is itself.
func (c Clientset) Pods(string) Clientset { return c }
