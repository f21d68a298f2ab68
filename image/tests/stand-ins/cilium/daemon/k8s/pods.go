// Package k8s stands in for the part of its namesake that is used here.
package k8s

import (
	"iter"

	"github.com/cilium/hive/job"
	"github.com/cilium/statedb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/cilium/cilium/pkg/k8s"
	"github.com/cilium/cilium/pkg/k8s/client"
	slim_corev1 "github.com/cilium/cilium/pkg/k8s/slim/k8s/api/core/v1"
	"github.com/cilium/cilium/pkg/k8s/utils"
	nodeTypes "github.com/cilium/cilium/pkg/node/types"
)

const reflectorName = "daemon-k8s"

// LocalPod is a pod.
type LocalPod struct {
	*slim_corev1.Pod
}

// NewPodTableAndReflector has the table filled.
func NewPodTableAndReflector(jg job.Group, db *statedb.DB, cs client.Clientset) (statedb.Table[LocalPod], error) {
	var pods statedb.RWTable[LocalPod] = table{}
	var err error

	cfg := podReflectorConfig(cs, pods)
	err = k8s.RegisterReflector(jg, db, cfg)
	return pods, err
}

// table has a pod of a host, and two of its card.
type table struct{}

func (table) Name() string { return "k8s-pods" }

func (table) All(statedb.ReadTxn) iter.Seq2[LocalPod, statedb.Revision] {
	return func(yield func(LocalPod, statedb.Revision) bool) {
		for i, node := range []string{"node7", "node7-dpu", "node7-dpu"} {
			if !yield(LocalPod{&slim_corev1.Pod{Spec: slim_corev1.PodSpec{NodeName: node}}}, statedb.Revision(i)) {
				return
			}
		}
	}
}

func podReflectorConfig(cs client.Clientset, pods statedb.RWTable[LocalPod]) k8s.ReflectorConfig[LocalPod] {
	lw := utils.ListerWatcherWithModifiers(
		utils.ListerWatcherFromTyped(cs.Slim().CoreV1().Pods("")),
		func(opts *metav1.ListOptions) {
			opts.FieldSelector = fields.ParseSelectorOrDie("spec.nodeName=" + nodeTypes.GetName()).String()
		})
	return k8s.ReflectorConfig[LocalPod]{
		Name:          reflectorName,
		Table:         pods,
		ListerWatcher: lw,
		Transform: func(_ statedb.ReadTxn, obj any) (LocalPod, bool) {
			pod, ok := obj.(*slim_corev1.Pod)
			return LocalPod{pod}, ok
		},
	}
}
