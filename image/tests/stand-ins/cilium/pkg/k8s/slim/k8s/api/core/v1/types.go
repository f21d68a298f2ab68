// Package v1 stands in for the part of its namesake that is used here.
package v1

// PodSpec says where a pod is.
type PodSpec struct {
	NodeName string
}

// Pod is a pod.
type Pod struct {
	Name string
	Spec PodSpec
}
