// Package v1alpha1 is the API of AppIsolation: one object that says how an application is cut off from everything
// that it did not ask for.
//
// +kubebuilder:object:generate=true
// +groupName=appisolation.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is appisolation.io/v1alpha1.
var GroupVersion = schema.GroupVersion{Group: "appisolation.io", Version: "v1alpha1"}

// AddToScheme adds this package's types to a scheme.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &AppIsolation{}, &AppIsolationList{}, &IsolationProfile{}, &IsolationProfileList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
