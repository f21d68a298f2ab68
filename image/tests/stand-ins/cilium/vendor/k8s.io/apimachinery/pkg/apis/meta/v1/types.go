// Package v1 stands in for the part of its namesake that is used here.
package v1

// ListOptions say what is listed.
type ListOptions struct {
	FieldSelector string
}
