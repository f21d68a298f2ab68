// Package statedb stands in for the part of its namesake that is used here.
package statedb

import "iter"

// Revision counts changes.
type Revision = uint64

// ReadTxn is a view of all tables.
type ReadTxn interface{}

// DB has no tables.
type DB struct{}

// Table gives its objects.
type Table[Obj any] interface {
	All(ReadTxn) iter.Seq2[Obj, Revision]
}

// RWTable is one that can be written.
type RWTable[Obj any] interface {
	Table[Obj]
	Name() string
}
