package integration

import (
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// requesters ask the API server at the same time.
const requesters = 50

// inParallel does something so many times, many at the same time.
func inParallel(n int, do func(i int) error) error {
	var group errgroup.Group
	group.SetLimit(requesters)
	for i := range n {
		group.Go(func() error { return do(i) })
	}
	return group.Wait()
}

// podOf is a pod that nobody runs. It is on no node: one that the API server doesn't know would have it collected.
func podOf(namespace, name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "none"}}},
	}
}
