// Package job stands in for the part of its namesake that is used here.
package job

// Group is where jobs are run.
type Group interface{}
