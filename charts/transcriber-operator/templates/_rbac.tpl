{{/*
Rights: how they are bound, and the rules themselves. Each rule is used: the tests compare them with the API server's audit log.
*/}}

{{/* Name of an object of this installation that lives in no namespace, or in that of others. Takes context, [suffix]. */}}
{{- define "transcriber-operator.clusterName" -}}
{{- $parts := list (include "transcriber-operator.fullname" .context) (include "transcriber-operator.namespace" .context) .suffix }}
{{- $parts | compact | join "-" }}
{{- end }}

{{/*
A role and its binding to a ServiceAccount of the operator's namespace. Takes context, kind (Role or ClusterRole), name, namespace (of
a Role), account, component, rules, [annotations] (of a hook).
*/}}
{{- define "transcriber-operator.grant" }}
{{- $metadata := merge (dict "clusterScoped" (eq .kind "ClusterRole")) (pick . "context" "component" "name" "namespace" "annotations") }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}
metadata:
  {{- include "transcriber-operator.metadata" $metadata | nindent 2 }}
rules:
{{ .rules | trim }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}Binding
metadata:
  {{- include "transcriber-operator.metadata" $metadata | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
subjects:
- kind: ServiceAccount
  name: {{ .account }}
  namespace: {{ include "transcriber-operator.namespace" .context }}
{{- end }}

{{/*
The same wherever resources are served: in all namespaces, or in each of watchNamespaces. Takes context, suffix (of the names), account,
component, rules, [annotations].
*/}}
{{- define "transcriber-operator.grantServed" }}
{{- $given := omit . "suffix" }}
{{- $served := .context.Values.watchNamespaces }}
{{- $name := include "transcriber-operator.fullname" .context }}
{{- if .suffix }}
{{- $name = include "transcriber-operator.childName" (pick . "context" "suffix") }}
{{- end }}
{{- range $served }}
{{- include "transcriber-operator.grant" (merge (dict "kind" "Role" "name" $name "namespace" .) $given) }}
{{- end }}
{{- if not $served }}
{{- $name = include "transcriber-operator.clusterName" (pick . "context" "suffix") }}
{{- include "transcriber-operator.grant" (merge (dict "kind" "ClusterRole" "name" $name) $given) }}
{{- end }}
{{- end }}

{{/* What the operator may do where it serves. */}}
{{- define "transcriber-operator.servedRules" -}}
- apiGroups: [serving.transcriber.dev]
  resources: [transcriberdeployments]
  verbs: [get, list, watch, patch] # patch: its finalizer
- apiGroups: [serving.transcriber.dev]
  resources: [transcriberdeployments/status]
  verbs: [patch]
- apiGroups: [serving.transcriber.dev]
  resources: [transcriberdeployments/finalizers]
  verbs: [update] # for blockOwnerDeletion, where OwnerReferencesPermissionEnforcement is on (OpenShift)
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch, delete] # patch: which of them go first; delete: those whose node is about to go, within its time
{{- if .Values.rbac.hpa }}
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers] # mode Hpa
  verbs: [get, list, create, patch, delete]
{{- end }}
{{- if .Values.rbac.keda }}
- apiGroups: [keda.sh]
  resources: [scaledobjects] # mode Keda
  verbs: [get, list, create, patch, delete]
{{- end }}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{ include "transcriber-operator.heartbeatRule" . }}
{{- end }}

{{/* Watches reach over all served namespaces and the operator's own, its heartbeat too: by field selector, this name only. */}}
{{- define "transcriber-operator.heartbeatRule" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "transcriber-operator.leaseName" . }}]
  verbs: [list, watch]
{{- end }}

{{/* What it may do in its own namespace where it does not serve that: its watches cover it all the same. */}}
{{- define "transcriber-operator.ownRules" -}}
- apiGroups: [serving.transcriber.dev]
  resources: [transcriberdeployments]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [configmaps, services, pods]
  verbs: [list, watch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch]
{{ include "transcriber-operator.heartbeatRule" . }}
{{- end }}

{{/* The Lease that makes one of several operators work. */}}
{{- define "transcriber-operator.leaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create] # has no name to restrict it to
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "transcriber-operator.leaseName" . }}]
  verbs: [get, update]
{{- end }}

{{/* Karpenter's objects live in no namespace. */}}
{{- define "transcriber-operator.karpenterRules" -}}
- apiGroups: [karpenter.sh]
  resources: [nodepools]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [karpenter.sh]
  resources: [nodeclaims]
  verbs: [list, watch]
{{- range .Values.rbac.nodeClassGroups }}
- apiGroups: [{{ .group }}]
  resources: [{{ .resource }}]
  verbs: [get] # whether the class of a NodePool is ready
{{- end }}
{{- end }}

{{/* What `helm uninstall` may do where the operator serves: take its finalizer off, and delete where the CRD goes too. */}}
{{- define "transcriber-operator.cleanupRules" -}}
- apiGroups: [serving.transcriber.dev]
  resources: [transcriberdeployments]
  verbs: [list, patch{{ if .deletes }}, delete{{ end }}]
{{- end }}

{{/* What it may do to the operator itself. */}}
{{- define "transcriber-operator.cleanupOwnRules" -}}
- apiGroups: [apps]
  resources: [deployments]
  resourceNames: [{{ include "transcriber-operator.fullname" . }}]
  verbs: [get, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
{{- end }}

{{/* Whether an operator is at work, for `helm test`. */}}
{{- define "transcriber-operator.trialOwnRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "transcriber-operator.leaseName" . }}]
  verbs: [get]
{{- end }}

{{/* What Karpenter says of its objects. */}}
{{- define "transcriber-operator.nodeEventRules" -}}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [list]
{{- end }}

{{/* NodePools of resources that go. */}}
{{- define "transcriber-operator.cleanupNodeRules" -}}
- apiGroups: [karpenter.sh]
  resources: [nodepools]
  verbs: [list, delete]
{{- end }}

{{/* Which resources there are, for `helm test`. */}}
{{- define "transcriber-operator.trialRules" -}}
- apiGroups: [serving.transcriber.dev]
  resources: [transcriberdeployments]
  verbs: [list]
{{- end }}

{{/* Label selector of the operator's pods. */}}
{{- define "transcriber-operator.operatorPods" -}}
{{- $labels := include "transcriber-operator.selectorLabels" (dict "context" $ "component" "operator") | fromYaml }}
{{- $terms := list }}
{{- range $label, $value := $labels }}
{{- $terms = append $terms (printf "%s=%s" $label $value) }}
{{- end }}
{{- join "," $terms }}
{{- end }}
