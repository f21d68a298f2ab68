// Package k8s stands in for the part of its namesake that is used here.
package k8s

import (
	"fmt"
	"iter"

	"github.com/cilium/hive/job"
	"github.com/cilium/statedb"

	"github.com/cilium/cilium/pkg/k8s/utils"
)

// QueryAllFunc gives the objects that are a reflector's.
type QueryAllFunc[Obj any] func(statedb.ReadTxn, statedb.Table[Obj]) iter.Seq2[Obj, statedb.Revision]

// ReflectorConfig says what is reflected where.
type ReflectorConfig[Obj any] struct {
	Name          string
	Table         statedb.RWTable[Obj]
	ListerWatcher utils.ListerWatcher
	Transform     func(statedb.ReadTxn, any) (Obj, bool)
	QueryAll      QueryAllFunc[Obj]
}

// RegisterReflector says what it would watch, and what of the table it would take for its own.
func RegisterReflector[Obj any](_ job.Group, _ *statedb.DB, cfg ReflectorConfig[Obj]) error {
	count := 0
	all := cfg.Table.All(nil)
	if cfg.QueryAll != nil {
		all = cfg.QueryAll(nil, cfg.Table)
	}
	for range all {
		count++
	}
	fmt.Printf("%s watches %s, and has %d pods\n", cfg.Name, cfg.ListerWatcher.Options.FieldSelector, count)
	return nil
}
